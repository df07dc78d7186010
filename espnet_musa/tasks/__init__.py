"""ESPnet tasks: what ESPnet's launcher and trainer need to train the models of this package.

ESPnet's task module imports every text front end it has. One of their packages (g2p_en) asks the network for its
dictionaries at import, and together they take ten seconds. No task here reads text, and no stage but the first may use
the network: empty modules take their places. Whoever imported the real ones before keeps them.
"""

import sys
from importlib.machinery import ModuleSpec
from importlib.util import module_from_spec

for _name in ("g2p_en", "tacotron_cleaner", "tacotron_cleaner.cleaners"):
    if _name not in sys.modules:
        sys.modules[_name] = module_from_spec(ModuleSpec(_name, None))
