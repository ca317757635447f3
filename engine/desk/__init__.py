"""Looking after jobs: submitting, polling, retrieving and cancelling them, one desk for each computer."""
