"""What the commands do, as functions for everybody."""
