"""Hospitals train one network together on Flower; their scans stay where they are. Needs the extra `federated`.

`server_app` and `client_app` are what Flower starts, `rounds` and `site` are what they do; `run` starts Flower's own processes.
"""
