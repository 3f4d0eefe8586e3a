"""Every option: the schema, its ranges, its checks."""
