"""Files of users: read in processes of their own, decoded once."""
