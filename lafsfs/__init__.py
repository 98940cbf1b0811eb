"""Mount Tahoe-LAFS directories straight from the storage servers."""
