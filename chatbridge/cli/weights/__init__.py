"""`python -m chatbridge weights`: what is known about weight files, before and after they are downloaded."""
