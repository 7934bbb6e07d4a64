"""One file per revision, numbered with leading zeros."""
