"""Results for other code, and results of other code for us.

Door: `export_results.export` and `import_results.import_`.
"""
