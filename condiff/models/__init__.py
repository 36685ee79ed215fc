"""The networks: a frozen backbone, the condition encoder, the U-Net, and their folders."""
