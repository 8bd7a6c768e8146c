from ewsjf_env.engine.platform import *  # noqa
from ewsjf_env.engine.platform import register, register_model  # noqa
