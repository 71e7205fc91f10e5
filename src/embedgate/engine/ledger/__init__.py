"""What a request used and cost: token counts, charges, ledger entries."""
