"""Results for other code, results of other code for us, and audits of both.

Start at `exported_tables.export_tables`, `exported_ticket.export_ticket`, `import_results.import_`,
`audit_results.audit`.
"""
