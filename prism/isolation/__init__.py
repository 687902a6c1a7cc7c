"""What the processes of plugins may do: policies, what the machine offers, and the means.

``policy`` says what a plugin is to be kept from, ``machine`` what can be had here, ``confinement``
puts both together into a command; ``confine_main`` is the program that confines itself and then
becomes the plugin. docs/isolation.md is the page for users.
"""
