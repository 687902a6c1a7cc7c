"""Floor 3, host side: plugins are launched, watched and ended here."""
