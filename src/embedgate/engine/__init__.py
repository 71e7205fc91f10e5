"""One request at a time: authenticate, admit, resolve, plan, execute, account. `pipeline` is the order of it."""
