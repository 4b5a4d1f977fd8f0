"""What is printed for people, and for shells: manuals and completion, made from the tables of settings and commands."""
