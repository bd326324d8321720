"""Results for other code, results of other code for us, and audits of both.

Door: `export_results.export`, `import_results.import_` and `audit_results.audit`.
"""
