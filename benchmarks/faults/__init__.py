"""What becomes of commands under faults: kills, signals, full disks, lost power, bad inputs."""
