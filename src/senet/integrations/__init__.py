"""This package inside other libraries. Nothing is loaded before you import one of its modules."""
