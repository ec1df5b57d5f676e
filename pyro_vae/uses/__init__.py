"""What people do with a trained model: a file for each use; functions of images and tensors, with frozen results."""
