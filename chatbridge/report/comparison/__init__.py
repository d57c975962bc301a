"""Two systems on the same items: `sides` reads, `runs` compares all tasks, `task` one; `text` and `page` show it."""
