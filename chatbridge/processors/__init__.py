"""Media files to encoder inputs. Preprocessing belongs to the weights and is built without them."""
