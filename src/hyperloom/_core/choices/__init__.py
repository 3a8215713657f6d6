"""The objects that users choose: conditions, trunks, layouts, forms, inits, execution."""
