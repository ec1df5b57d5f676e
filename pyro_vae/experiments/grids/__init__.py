"""The studies of documents, one file each."""
