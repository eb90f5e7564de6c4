"""Lists of videos: making, listing, checking and preparing them."""
