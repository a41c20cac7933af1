"""What goes with a pipeline into its folder and to the Hub: its model card, its code, the upload itself."""
