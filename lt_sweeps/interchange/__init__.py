"""Export our results for other code, import other code's results, and audit both.

Start at `exported_tables.export_tables`, `exported_ticket.export_ticket`, `import_results.import_`
or `audit_results.audit`.
"""
