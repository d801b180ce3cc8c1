"""Machine annotators: what marks lines without being a person. Each is as trustworthy as its honeypots show."""
