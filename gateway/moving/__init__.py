"""From one vendor to another: what the next would refuse, its history filled in, the last one's month closed."""
