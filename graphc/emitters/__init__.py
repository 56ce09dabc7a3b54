"""emitters"""
