"""Sources of photos with captions and condition images, with one function to open all of them."""
