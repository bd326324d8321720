"""Results for other people's code, and theirs for ours.

Door: `export_results.export` and `import_results.import_`.
"""
