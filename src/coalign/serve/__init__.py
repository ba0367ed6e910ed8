"""`coalign serve`: search, alignment and data of runs in the browser, on this machine.

`app` answers requests, `security` decides which, `sessions` holds a run's model and index, `worker` queues its work.
`web/` has the TypeScript sources of `pages/`.
"""
