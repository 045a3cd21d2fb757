"""What people look at: tables, curves, the report page."""
