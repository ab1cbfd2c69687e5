"""Hospitals train one network together on Flower; their scans stay where they are. Needs the extra `federated`.

`server_app` and `client_app` are the programs of the two sides, `rounds` and `site` what they do; `superlink` and `worker` close what
Flower leaves open; `run` starts and stops all processes, `launch` a whole training. `settings` declares all that can be set; `flower`
holds what is used of Flower beyond its public interface.
"""
