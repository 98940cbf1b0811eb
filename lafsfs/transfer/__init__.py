"""Moving whole files between values and shares on servers."""
