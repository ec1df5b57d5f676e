"""What every room uses: checks of input, files, random numbers, devices, progress."""
