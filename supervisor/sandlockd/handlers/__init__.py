"""What becomes of each trapped call, one file per family. A handler gets a Request and gives an Answer."""
