"""What must survive a restart: users, keys and the ledger, in one SQL database in the data folder."""
