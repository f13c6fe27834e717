"""What earlier builds left behind: records of steps, tables of contents and snapshots of layers."""
