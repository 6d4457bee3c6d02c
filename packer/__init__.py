"""packs mlxone into one file"""
