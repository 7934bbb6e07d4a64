"""The push-consumer runtime: receive, claim, run, settle, acknowledge.  Services need nothing from here."""
