"""Where photos come from, with their captions and condition images: one door for all uses."""
