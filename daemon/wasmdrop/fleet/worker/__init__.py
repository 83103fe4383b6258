"""Run jobs of other machines: pull them, run each in the local sandbox, answer.

A worker keeps nothing that another one could not do again. A job that it was given is answered, or
its lease lapses and another worker has it.
"""
