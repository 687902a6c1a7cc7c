"""A plugin at the other end of frames: `link` carries them, `channel` makes calls of them."""
