"""Who calls, and what they may do: one place for every door.

``authentication`` finds the ``Identity`` behind a request's credentials, of whatever kind;
``permissions`` says what an identity may do in a namespace. Neither waits for anything.
"""
