"""People answer: the annotation schema, the log, honeypots, simulated annotators and Ray Data ingestion."""
