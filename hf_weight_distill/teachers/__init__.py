"""What is done to or with a teacher before and while it teaches. One file a method; import it from there."""
