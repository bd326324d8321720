"""What the fork server imports first: importing this module makes all imports after it cheaper.

Only here an import has an effect, because the server runs nothing of ours but imports.
"""

from lt_sweeps.config.garbage_collection import collect_rarely

collect_rarely()
