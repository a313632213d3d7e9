"""Tools of the developers: data, training, evaluation. Not part of the server."""
