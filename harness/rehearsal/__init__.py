"""Upgrade rehearsals: copy an installation, upgrade it under load, verify, go back."""
