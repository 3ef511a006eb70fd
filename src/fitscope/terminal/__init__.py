"""What fitscope prints in a terminal: numbers, tables, findings and the live view."""
