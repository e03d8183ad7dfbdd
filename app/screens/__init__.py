"""The screens of the app, one module each; every module has one function, ``show``."""
