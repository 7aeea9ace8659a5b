"""That this file is here puts the helpers beside it in reach of the tests in the folders below."""
