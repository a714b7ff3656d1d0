"""What a caller may say and gets back: arguments, filters, paging, results and conversions.

Knows neither a book nor a server: both use it.
"""
